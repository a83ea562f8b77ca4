"""Side-by-side timings: a bare floor, this project, and its peers, in one run."""
