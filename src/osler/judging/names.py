"""Names of models: which two are of one model, and what a server may call the model that it was asked for."""

import re
from os.path import isdir

_SNAPSHOT = re.compile(r"(?:@.+|:latest|-(?:00\d|\d{4}|\d{6}|\d{8})|-\d{4}-\d\d-\d\d)\Z", re.DOTALL)
"""What a server puts behind a name: the revision that it loaded, or the date or number of the version that it stands for now.

Three digits are a size (llama-3-405), but for those of a version (gemini-1.5-pro-002).
"""

_LATEST = re.compile(r"[-:]latest\Z")


def same_name(one: str, other: str) -> bool:
    """Whether both name one model. Names are compared in one case, and an owner counts where both name one."""
    owners, names = zip(*map(_owner_and_name, (one, other)), strict=True)
    return names[0] == names[1] and (None in owners or owners[0] == owners[1])


def answers_for(asked: str, said: str) -> bool:
    """Whether a server that calls itself `said` answers for the model `asked`: by its name, or that with a revision or date."""
    if same_name(asked, said):
        return True
    return same_name(_LATEST.sub("", asked), _SNAPSHOT.sub("", said))


def resolved(asked: str, said: str) -> bool:
    """Whether `said` is `asked` with a revision that nobody asked for: the server has looked the model up, and not echoed."""
    return said.startswith(f"{asked}@") and len(said) > len(asked) + 1


def _owner_and_name(model: str) -> tuple[str | None, str]:
    """The two parts of a hub name, in one case; a folder, and a name without a slash, has no owner."""
    folder = model.startswith((".", "~", "/")) or isdir(model)
    path = model.rstrip("/").casefold()
    owner, slash, name = path.rpartition("/")
    return (owner if slash and not folder else None), name
