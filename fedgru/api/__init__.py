"""What `import fedgru` offers, and the command line calls: train, open and use runs from Python."""
