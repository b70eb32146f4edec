"""The command line: `resmem`, which is `python -m resmem`.

`parser.py` says what can be asked for, `commands.py` does it, one function per command.
`files.py` tells files to read from files to write. `inputs.py` finds the arrays that options name
and `resmem/_formats.py` maps them from their files; `outputs.py` writes results block by block, and
`progress.py` shows how far a command has come.
"""
