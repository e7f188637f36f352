"""The clients that are compared, each as its own documentation says to use it."""
