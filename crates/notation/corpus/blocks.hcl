# A usual file of a server.
datacenter = "dc1"
server     = true
ports {
  http = 8500
  dns  = -1
}
connect = {
  enabled = true,
  proxy_defaults = { config { bind_address = "0.0.0.0" } },
}
