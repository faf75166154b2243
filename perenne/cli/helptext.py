"""Help for terminals of any width: docstrings are broken where the source wants it, help where the terminal does."""

import inspect

import typer


def unbroken(text: str) -> str:
    """Join the lines of each paragraph, but for those that are set in columns.

    >>> unbroken("One line,\\nand its rest.\\n\\nthis:    that\\nmore:    of it")
    'One line, and its rest.\\n\\nthis:    that\\nmore:    of it'
    """
    paragraphs = text.split("\n\n")
    return "\n\n".join(one if "  " in one else one.replace("\n", " ") for one in paragraphs)


def unbreak(app: typer.Typer) -> None:
    """Give every verb of `app`, and of the groups in it, its docstring like that."""
    for verb in (*app.registered_commands, app.registered_callback):
        if verb is not None and verb.callback is not None and verb.callback.__doc__:
            verb.help = unbroken(inspect.getdoc(verb.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            unbreak(group.typer_instance)
