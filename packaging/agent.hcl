# The agent of this node. Every key is explained in /usr/share/doc/lictor/configuration.md; `lictor validate /etc/lictor`
# checks this folder. Services go into files of their own beside this one. The data directory is given by the unit.

# This agent holds the state itself. Agents of several machines share it in an etcd: /usr/share/doc/lictor/cluster.md
server    = true
bootstrap = true

connect {
  enabled = true
}
