"""The parameters of the node. One table is the source of their declaration, checks and documentation."""
