"""Mean ranks of methods over many places, whether chance explains them, and which methods no test tells apart."""
