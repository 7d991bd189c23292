# pyhcl differs: of a list given twice it keeps the last
scalar = 1
scalar = 2
list = ["a"]
list = ["b"]
watches { type = "key" }
watches { type = "nodes" }
