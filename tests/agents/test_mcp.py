"""MCP both ways, against the official package's own servers and clients."""

import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import anyio
import pytest
import uvicorn
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.server import MCPServer, Server, ServerRequestContext
from mcp.server.mcpserver import Context, Image
from pydantic import JsonValue
from pydantic_core import from_json

from convive.agents import _events as shown
from convive.agents._agent import Agent
from convive.agents._calls import Outcome, Ready, carry_out, prepare
from convive.agents._errors import BadModelRequest
from convive.agents._fold import Call
from convive.agents._frame import current_run
from convive.agents._journal import JournalEvent, Place, RunCancelled, RunFinished, journal_event_of
from convive.agents._messages import ToolResult, ToolUse
from convive.agents._model import Answer, Request
from convive.agents._schema import BadTool
from convive.agents._schema_tool import provider_names, schema_tool
from convive.agents._scripted import ScriptedModel
from convive.agents._tools import Tool, ToolContext, by_name, tool
from convive.agents.mcp import McpLimits, McpServer, McpUnavailable, mcp_server, mcp_tools
from convive.bus import MemoryLog, MemoryUnavailable as _Unused, RunContext
