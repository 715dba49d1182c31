"""Information-bottleneck dynamics of a perceptron on 20 Newsgroups, for three vocabulary sizes."""
