"""A definition with every kind of step and every box that can stand inside one, for tests of pictures."""

from __future__ import annotations

from typing import Any

EVERY_KIND: dict[str, Any] = {
    "id": "every-kind",
    "version": "2.1.0",
    "description": 'One of every kind, <nested> & "quoted"',
    "inputs": {
        "type": "object",
        "properties": {"city": {"type": "string", "default": "Zürich 東京"}, "n": {"type": "integer", "default": 3}},
    },
    "steps": [
        {
            "id": "plan",
            "component": "llm.plan",
            "inputs": {"city": "{{ inputs.city }}"},
            "retry": {"max_attempts": 4, "delay_seconds": 1},
            "timeout": 30,
            "catch": [
                {"type": "http", "steps": [{"id": "cached", "component": "cache.read"}]},
                {"steps": [{"id": "empty", "set": []}]},
            ],
        },
        {"id": "left", "set": "{{ steps.plan.output }}", "needs": ["plan"]},
        {"id": "right", "component": "text.clean", "needs": ["plan"], "effect": "once", "resources": {"llm": 1}},
        {"id": "nap", "wait": {"seconds": 90}, "needs": []},
        {"id": "merge", "component": "text.merge", "needs": ["left", "right", "plan"]},
        {"id": "split", "component": "text.split", "needs": ["left", "right"]},
        {
            "id": "every",
            "foreach": "{{ steps.plan.output.cities }}",
            "concurrency": 4,
            "on_item_error": "collect",
            "steps": [
                {"id": "fetch", "component": "http.get", "inputs": {"url": "{{ item }}"}},
                {"id": "score", "component": "llm.score", "condition": "{{ steps.fetch.success }}"},
            ],
        },
        {
            "id": "refine",
            "repeat": {"until": "{{ steps.critic.output > 0.9 }}", "max_iterations": 5, "delay_seconds": 2},
            "steps": [{"id": "draft", "component": "llm.write"}, {"id": "critic", "component": "llm.critic"}],
            "catch": [{"type": "timeout", "steps": [{"id": "giveup", "raise": {"type": "review.rejected"}}]}],
        },
        {
            "id": "route",
            "switch": [
                {"when": "{{ inputs.n > 10 }}", "steps": [{"id": "big", "workflow": "report", "version": "1.0.0"}]},
                {"when": "{{ inputs.n > 2 }}", "steps": [{"id": "ask", "signal": "approval", "timeout": 86_400}]},
            ],
            "default": [{"id": "small", "component": "report.small"}],
        },
        {
            "id": "both",
            "parallel": {
                "mail": [{"id": "post", "component": "mail.send", "compensate": {"component": "mail.sorry"}}],
                "chat": [{"id": "chat", "component": "{{ steps.plan.output.tool }}", "allow": ["chat.a", "chat.b"]}],
            },
        },
        {
            "id": "spreading",
            "foreach": "{{ steps.every.output }}",
            "spread": True,
            "steps": [{"id": "deep", "component": "deep.work", "inputs": {"x": "{{ item }}"}}],
        },
        {"id": "stop", "condition": "{{ inputs.n < 0 }}", "raise": {"type": "too.few"}},
    ],
    "finally": [{"id": "notify", "component": "mail.send", "inputs": {"text": "{{ job.outcome }}"}}],
}
ALL_IDS = frozenset(
    {
        "plan", "cached", "empty", "left", "right", "nap", "merge", "split", "every", "fetch", "score", "refine",
        "draft", "critic", "giveup", "route", "big", "ask", "small", "both", "post", "chat", "spreading", "deep",
        "stop", "notify",
    }
)  # fmt: skip
