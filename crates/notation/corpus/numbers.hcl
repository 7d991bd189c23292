# pyhcl differs: it reads a leading zero as decimal
a = 0x1F91
b = 0644
c = 1.5
d = 1e3
e = -7
f = 2.5e-1
