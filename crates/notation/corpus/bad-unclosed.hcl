ports {
  http = 1
