tags = ["a" "b"]
