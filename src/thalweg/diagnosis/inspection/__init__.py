"""Inspection: facts about a training that are known before its first step."""
