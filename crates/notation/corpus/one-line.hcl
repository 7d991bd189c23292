connect { enabled = true proxy { allow_managed_root = true } }
service { name = "web" port = 80 connect { sidecar_service {} } }
