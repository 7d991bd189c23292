# The agent of this node. Every key is explained in /usr/share/doc/lictor/configuration.md; `lictor validate /etc/lictor`
# checks this folder. Services go into files of their own beside this one.

# One server holds the state; others will be clients.
server    = true
bootstrap = true

connect {
  enabled = true
}
