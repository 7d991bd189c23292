// first
a = 1 # second
/* third
   goes on */ b = 2
c = "# not a comment // neither /* nor this */"
