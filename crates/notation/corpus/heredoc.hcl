# pyhcl differs: it leaves out the last line end and keeps the margin
script = <<EOF2
line one
  line "two"
EOF2
indented = <<-END
    one
      two
    END
