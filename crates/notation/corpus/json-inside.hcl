{
  "node_name": "n1",
  "ports": {"http": 8500, "grpc": 8502},
  "retry_join": ["a", "b"]
}
