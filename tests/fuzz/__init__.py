"""Every surface that reads what others wrote, under thousands of changed examples.

`make test` runs a few hundred each, `make fuzz` a hundred times as many.
"""
