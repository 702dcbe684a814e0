"""Commands as a README shows them: whole lines of shell blocks, and code within the lines of its table of commands."""

from __future__ import annotations

import re

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
ROW = re.compile(r"^\| [^|\n]+ \| (.*) \|$", re.M)
CODE = re.compile(r"`([^`\n]+)`")


def snippets(text: str) -> list[str]:
    """Each `alphabar ...` of the shell blocks with the options of its comment, then each piece of code of the table."""
    found = []
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            command, _, comment = line.partition("#")
            commands = [part.strip() for part in command.split("&&")]
            found += [part for part in commands if part.startswith("alphabar")]
            found += re.findall(r"--\w[^#]*?(?= with |$)", comment)
    rows = [row for row in ROW.findall(text) if re.search(r"`(alphabar |\.\.\. |--)", row)]
    return found + [code for row in rows for code in CODE.findall(row)]
