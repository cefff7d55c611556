"""What goes wrong with a PostgreSQL server, and what of it is told."""

from __future__ import annotations

from openagents_json.errors import StoreError, StoreFull, StoreUnavailable
from openagents_json.job.store.postgres_driver import is_lost, is_unfit_value, state_of
from openagents_json.job.store.postgres_place import Place

REPEATED = ("40001", "40P01")  # serialization failure, deadlock: the transaction is undone, and may be tried again
LOCKED = "55P03"

_HINTS = {
    "28000": "check the user, and what pg_hba.conf allows",
    "28P01": "check the user and the password",
    "3D000": "there is no such database; make it with createdb",
    "3F000": "the schema is gone",
    "42501": "the user may not do this; see what it needs in docs/stores.md",
    "42P01": "a table is gone",
    "25006": "the server is a standby or set to read only; give the address of the primary",
    "53300": "the server has no connection left; raise max_connections, or use a pooler",
    "57014": "it took too long",
    "57P01": "the server shuts down or an administrator ended the connection",
    "57P03": "the server is starting or shutting down",
    LOCKED: "another session holds it for long",
}


def is_own_fault(error: BaseException) -> bool:
    """Whether it is the fault of one operation, as opposed to the database: the others of its group go on without it.
    A value that does not fit, or that a constraint refuses."""
    state = state_of(error)
    return is_unfit_value(error) or (state is not None and state[:2] in ("22", "23"))


def is_of_the_database(error: BaseException) -> bool:
    """Whether driver, server or network say so; anything else is an error of the program."""
    return is_lost(error) or is_unfit_value(error) or state_of(error) is not None


def translate(error: BaseException, place: Place) -> StoreError:
    """The store's own error for one of the driver, the server or the system. A new one at each call."""
    text = place.without_secrets(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    if isinstance(error, StoreError):
        return error
    if is_own_fault(error):
        return StoreError(f"{place.shown} refuses what is to be written: {text}. Nothing of it was.")
    state = state_of(error)
    if state in ("53100", "53200"):
        return StoreFull(f"{place.shown} cannot grow: {text}. Nothing was accepted; make room on the server.")
    if state is None and isinstance(error, (OSError, TimeoutError)):
        what = "does not answer in time" if isinstance(error, TimeoutError) else f"cannot be reached ({text})"
        return StoreUnavailable(f"{place.shown} {what}; check that the server runs there and accepts connections.")
    if state is not None and state[:2] == "42" and state not in _HINTS:
        return StoreError(f"{place.shown} does not understand a statement of ours: {text}. Nothing was written.")
    hint = _HINTS.get(state or "", "try again")
    return StoreUnavailable(f"{place.shown} cannot be used now: {text}; {hint}. Nothing was accepted.")
