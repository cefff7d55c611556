"""Where a PostgreSQL store is: its URL read and checked, what may be shown of it, and what its connections are told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from openagents_json.errors import InvalidSettings
from openagents_json.job.store.postgres_driver import server_keepalive

DEFAULT_SCHEMA = "openagents"
SCHEMA_CHARACTERS = 40  # PostgreSQL has room for 63, and the channel's name is made of it
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]*")
_SECRETS = ("password", "sslpassword")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}

LOCK_S = 2  # to wait for a row that another transaction has locked
STATEMENT_S = 20
IDLE_IN_TRANSACTION_S = 10  # then the server ends the session, and its locks are free; sooner if leases are shorter

_SETTINGS = {
    "statement_timeout": f"{STATEMENT_S}s",
    "lock_timeout": f"{LOCK_S}s",
    "default_transaction_isolation": "read committed",
    "jit": "off",  # compiling costs more than what these statements do
    "client_min_messages": "warning",
}
# Statements that write are planned once, often for tables that are still empty, so the plans must not depend on that:
# look up by index, one row after the other, in the order in which they are given. That is the order of the locks, too.
# Where a statement looks for jobs and updates those that it has found, it does so by `key = ANY (ARRAY(SELECT key FROM
# …))`: a join may be begun with all the jobs, if the server takes them to be few.
_WRITER_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A store's place. `dsn` is for the driver alone: it may hold a password."""

    dsn: str = field(repr=False)
    shown: str  # for messages
    schema: str
    is_pooled: bool
    given: frozenset[str] = frozenset()  # settings of the server that the URL has; ours do not win over them
    secrets: tuple[str, ...] = field(default=(), repr=False)
    idle_in_transaction_s: float = IDLE_IN_TRANSACTION_S

    @property
    def channel(self) -> str:
        """The name under which stores of this schema tell each other that they have written."""
        return f"openagents_{self.schema}"

    def without_secrets(self, text: str) -> str:
        """A message of somebody else, with nothing in it that must not be shown."""
        for secret in self.secrets:
            text = text.replace(secret, "•••")
        return text

    def session(self, *, writes: bool) -> Mapping[str, str]:
        """The server's settings for a connection."""
        idle_ms = round(self.idle_in_transaction_s * 1000)
        settings = _SETTINGS | {"idle_in_transaction_session_timeout": f"{idle_ms}ms"}
        settings |= _WRITER_SETTINGS if writes else {}
        if not self.is_pooled:
            settings = settings | dict(server_keepalive()) | {"application_name": "openagents_json"}
        return {name: value for name, value in settings.items() if name not in self.given}

    def preamble(self, *, writes: bool) -> str:
        """These settings as SQL: for the life of a connection, or for one transaction where connections are pooled."""
        local = "LOCAL " if self.is_pooled else ""
        settings = "".join(f"SET {local}{name} = '{value}';" for name, value in self.session(writes=writes).items())
        durable = ""
        if writes and "synchronous_commit" not in self.given:  # weaker only if the URL says so; stronger is welcome
            durable = (
                f"SELECT set_config('synchronous_commit', 'on', {self.is_pooled}) "
                "WHERE current_setting('synchronous_commit') = 'off';"
            )
        return f"SET {local}search_path = {self.schema};{settings}{durable}"


def place_of(url: str) -> Place:
    """Read a URL: `postgresql://user:password@host:port/database?schema=openagents&pooler=false`. What else stands
    behind the question mark is the driver's (`sslmode`, `host`, …) or a setting of the server. `InvalidSettings`."""
    try:
        parts = urlsplit(url)
        port, user, password = parts.port, parts.username, parts.password
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise InvalidSettings(
            "The URL of the PostgreSQL store cannot be read. It is postgresql://user:password@host:port/database; "
            "special characters in the password are written as %40 and the like."
        ) from None
    schema = query.pop("schema", DEFAULT_SCHEMA)
    if not _SCHEMA.fullmatch(schema) or len(schema) > SCHEMA_CHARACTERS or schema.startswith("pg_"):
        raise InvalidSettings(
            f"{schema!r} is no schema for a store: lower-case letters, digits and _, not a digit first, "
            f"at most {SCHEMA_CHARACTERS}, and not pg_…."
        )
    pooler = query.pop("pooler", "false")
    if pooler not in _SWITCH:
        raise InvalidSettings(f"The URL of the PostgreSQL store says pooler={pooler}; it is true or false.")
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))
    where = (parts.hostname or query.get("host") or "") + (f":{port}" if port else "")
    shown = f"postgresql://{f'{unquote(user)}@' if user else ''}{where}{parts.path} (schema {schema})"
    found = [password, *(query.get(name) for name in _SECRETS)]
    secrets = {form for one in found if one for form in (one, unquote(one))}
    by_length = tuple(sorted(secrets, key=len, reverse=True))
    return Place(dsn, shown, schema, _SWITCH[pooler], frozenset(query), by_length)
