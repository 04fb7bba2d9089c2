"""What is kept on disk, each kind in one file.

runs     finished work: parquet and a manifest, immutable (no SQL)
cache    DuckDB files derived from runs, the only DuckDB code
queue    jobs waiting and running, the only SQLite code
"""
