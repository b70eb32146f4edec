"""The command line: `resmem`, which is `python -m resmem`.

`parser.py` declares the options; `commands.py` has one function per command. `files.py` tells files
to read from files to write. `inputs.py` finds the arrays that options name, which
`resmem/_files/formats.py` maps from their files; `labelled.py` holds rows with targets, and
`queries.py` those of `resmem predict`. `outputs.py` writes results block by block, `printing.py`
prints the outcome, and `progress.py` draws progress bars.
"""
