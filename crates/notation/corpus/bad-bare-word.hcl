# pyhcl differs: it takes bare words as text
server = yes
