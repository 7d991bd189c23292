# pyhcl differs: it wants commas between objects
services = [
  { name = "a" port = 1 }
  { name = "b", port = 2 },
]
tags = ["x", "y",]
