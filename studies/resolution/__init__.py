"""The resolution study: how do margins, ranks and speed depend on image size?

    plan     sizes × interpolations × repeats, and the reference
    inputs   images with categories, queries
    run      scores every (image, query) in every cell -> Parquet
    table    Parquet -> a line per category, size and interpolation
    plot     the table's curves
    report   everything as a page
    example  drawn images to try it on

Data first: table, plot and report are made from the Parquet file alone.
"""
