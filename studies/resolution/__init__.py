"""The resolution study: what do margins, ranks and speed depend on an image's size?

    plan     sizes × interpolations × repeats, and the reference
    inputs   images with categories, queries
    run      scores every (image, query) in every cell -> Parquet
    table    Parquet -> a line per category, size and interpolation
    plot     the table's curves
    report   all of it as a page
    example  drawn images to try it on

Data first: table, plot and report are made from the Parquet file alone.
"""
