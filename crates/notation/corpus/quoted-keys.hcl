"service" { "name" = "web" "meta" { "a-b" = "1" } }
"dns_config" = { "service_ttl" = { "*" = "5s", "web*" = "10s" } }
