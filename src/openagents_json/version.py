"""Which version of openagents_json this is. Workers say it to the store."""

VERSION = "0.2.0.dev0"
