"""Pictures: a workflow as a graph, and a job as a timeline. Pure: from a plan and a history to text."""

from openagents_json.pictures.draw import GRAPH_FORMATS, TIMELINE_FORMATS, graph_picture, timeline_picture

__all__ = ["GRAPH_FORMATS", "TIMELINE_FORMATS", "graph_picture", "timeline_picture"]
