"""The secrets of plans: where they come from, and how those that a plan declares are read, late and anew at each use.

Theory of operation. A plan's ``plan.yaml`` names the secrets that it may read; nothing else opens them to it, and
``uses`` opens them to nobody. A *provider* knows a place where secrets are; they are asked in order, and the first that
has one gives it, at each use again, so that a secret that was changed is the new one at the next use. Before anybody
gets a secret the ``redactor`` knows it, so that no sink shows it from then on.

A secret that no provider has keeps no plan from being loaded: ``secret_warnings`` says so, and the step that uses it
fails. Nothing is read for that: whether a secret is there is asked without looking at it.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from aura.errors import SecretMissing, SecretUnknown
from aura.plan import Plan
from aura.redaction import Redactor
from aura.sandbox import near
from aura.secret import Secret
from aura.secretforms import MIN_SECRET, is_findable

#: What the names of environment variables with secrets begin with.
VARIABLE = "AURA_SECRET_"
#: The largest file with a secret, in bytes.
MAX_FILE = 64 * 1024
#: Where containers find the secrets that they are given.
CONTAINER_FOLDER = Path("/run/secrets")


class Provider(Protocol):
    """A place where secrets are."""

    def where(self, name: str) -> str:
        """Name the place of a secret for people, whether it is there or not."""

    def has(self, name: str) -> bool:
        """Say whether it is there, without reading it."""

    def read(self, name: str) -> str | None:
        """Give the secret; None if it is not there.

        Raises:
            SecretMissing: it is there and cannot be read.
        """

    def warnings(self, name: str, /) -> Iterator[str]:
        """What is wrong with the way in which a secret is kept that is there."""


class Environment:
    """Secrets in environment variables: ``AURA_SECRET_SMTP_PASSWORD`` has ``smtp_password``."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def where(self, name: str) -> str:
        return f"the environment variable {VARIABLE}{name.upper()}"

    def has(self, name: str) -> bool:
        return bool(self._variables.get(VARIABLE + name.upper()))

    def read(self, name: str) -> str | None:
        value = self._variables.get(VARIABLE + name.upper(), "")
        return _without_newline(value) or None

    def warnings(self, _name: str) -> Iterator[str]:
        yield from ()


class Folder:
    """Secrets in files of a folder, each named as its secret. ``too_open`` are the mode bits that a file must not have.

    A file holds UTF-8 text of at most ``MAX_FILE`` bytes; a newline at its end does not count.
    """

    def __init__(self, folder: Path, too_open: int = 0o027) -> None:
        self._folder = folder
        self._too_open = too_open

    def where(self, name: str) -> str:
        return f"the file {self._folder / name}"

    def has(self, name: str) -> bool:
        return os.path.lexists(self._folder / name)

    def read(self, name: str) -> str | None:
        try:
            data = _read_file(self._folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SecretMissing(f"{self.where(name)} cannot be read: {error.strerror or error}") from None
        if len(data) > MAX_FILE:
            raise SecretMissing(f"{self.where(name)} is larger than {MAX_FILE // 1024} KiB: that is no secret")
        try:
            return _without_newline(data.decode()) or None
        except UnicodeDecodeError:
            raise SecretMissing(f"{self.where(name)} is no UTF-8 text; write it there as base64") from None

    def warnings(self, name: str) -> Iterator[str]:
        with suppress(OSError):
            mode = stat.S_IMODE((self._folder / name).stat().st_mode)
            if not os.access(self._folder / name, os.R_OK):
                yield f"{self.where(name)} cannot be read by this user"
            elif mode & self._too_open:
                yield f"{self.where(name)} is open to other users (mode {mode:04o}); `chmod 0400` closes it"


def _read_file(path: Path) -> bytes:
    """The beginning of a regular file, one byte more than it may have; a pipe or a device would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no file")
        return file.read(MAX_FILE + 1)


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def default_providers(variables: Mapping[str, str], container_folder: Path = CONTAINER_FOLDER) -> list[Provider]:
    """The places where a server looks, in their order. What containers are given is open to all in them."""
    found: list[Provider] = [Environment(variables)]
    credentials = variables.get("CREDENTIALS_DIRECTORY")
    if credentials:
        found.append(Folder(Path(credentials)))
    found.append(Folder(container_folder, too_open=0o022))
    return found


class Secrets:
    """Reads the secrets of plans, and has the redactor know them. ``warn`` is told, once, of each that is too short."""

    def __init__(self, providers: Sequence[Provider], redactor: Redactor, warn: Callable[[str], object]) -> None:
        self._providers = providers
        self._redactor = redactor
        self._warn = warn
        self._warned: set[str] = set()

    def read(self, plan: Plan, name: str) -> Secret:
        """Read a secret of a plan now; no sink shows it from then on.

        Raises:
            SecretUnknown: the plan does not declare it. SecretMissing: no place has it, or it cannot be read.
        """
        _check_declared(plan, name)
        for provider in self._providers:
            value = provider.read(name)
            if value is not None:
                self._learn(f"{plan.name}/{name}", value)
                return Secret(value)
        places = ", ".join(provider.where(name) for provider in self._providers)
        raise SecretMissing(f"the secret {name} of plan {plan.name} is nowhere; looked at: {places}")

    def has(self, plan: Plan, name: str) -> bool:
        """Say whether a secret of a plan is anywhere, without reading it."""
        return name in plan.secrets and any(provider.has(name) for provider in self._providers)

    def _learn(self, owner: str, value: str) -> None:
        self._redactor.learn(owner, value)
        if not is_findable(value) and owner not in self._warned:
            self._warned.add(owner)
            self._warn(
                f"the secret {owner} has fewer than {MIN_SECRET} characters: it is hidden only where it is the whole of"
                " a text, and shows inside of longer ones; make it longer"
            )

    def of(self, plan: Plan) -> "PlanSecrets":
        """What an action of this plan gets as ``ctx.secrets``."""
        return PlanSecrets(self, plan)

    def scope_of(self, plan: Plan) -> "SecretScope":
        """What an expression of this plan names as ``secrets``."""
        return SecretScope(self, plan)


def secret_warnings(providers: Sequence[Provider], plan: Plan) -> Iterator[str]:
    """Say what is wrong with the secrets that a plan declares. None of them is read."""
    for name in plan.secrets:
        holder = next((provider for provider in providers if provider.has(name)), None)
        if holder is None:
            places = ", ".join(provider.where(name) for provider in providers)
            yield f"the secret {name} is nowhere yet, and a step that uses it will fail; looked at: {places}"
        else:
            yield from holder.warnings(name)


def _check_declared(plan: Plan, name: str) -> None:
    if name not in plan.secrets:
        declared = ", ".join(plan.secrets) or "none"
        hint = near(name, plan.secrets) or f"; it declares {declared}"
        raise SecretUnknown(f"plan.yaml of {plan.name} does not declare the secret {name!r}{hint}")


class PlanSecrets(Mapping[str, str]):
    """The secrets of a plan by name, as text, each read anew whenever it is asked for; it shows none of them.

    ``len`` and iteration are over the names that the plan declares, whether a secret is there or not.
    """

    __slots__ = ("_plan", "_secrets")

    def __init__(self, secrets: Secrets, plan: Plan) -> None:
        self._secrets = secrets
        self._plan = plan

    def __getitem__(self, name: str) -> str:
        return self._secrets.read(self._plan, name).reveal()

    def __contains__(self, name: object) -> bool:
        return name in self._plan.secrets

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.secrets)

    def __len__(self) -> int:
        return len(self._plan.secrets)

    def __repr__(self) -> str:
        return f"<secrets {', '.join(self._plan.secrets)}>"


class SecretScope(dict[str, Any]):
    """``secrets`` in an expression: ``secrets.<name>`` is read when it is asked for. As a whole it is empty."""

    __slots__ = ("_plan", "_secrets")

    def __init__(self, secrets: Secrets, plan: Plan) -> None:
        super().__init__()
        self._secrets = secrets
        self._plan = plan

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return self._secrets.read(self._plan, name).reveal()
