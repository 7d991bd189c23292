node_name = "${foo"
