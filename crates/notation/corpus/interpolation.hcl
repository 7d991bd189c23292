node_name = "${foo}b"
path = "$HOME/x"
nested = "a${b{c}d}e"
