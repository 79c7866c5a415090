"""The names under which a trace is exported, in one place: the conventions for GenAI are still in development.

`gen_ai.*` as in version 1.41 of the semantic conventions, the last numbered one; what has been renamed since goes out
under both names. `openinference.*` and `session.id` are what Phoenix reads, `operation.cost` what Logfire does.
"""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"
SCOPE = "convive"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
WORKFLOW = "gen_ai.workflow.name"
AGENT = "gen_ai.agent.name"
CONVERSATION = "gen_ai.conversation.id"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE = ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens")
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL = "gen_ai.tool.call.id"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"

COST = "operation.cost"
OI_KIND = "openinference.span.kind"
OI_INPUT = "input.value"
OI_OUTPUT = "output.value"
SESSION = "session.id"

RUN = "convive.run.id"
PARENT = "convive.run.parent_id"
PART = "convive.part"
STATUS = "convive.status"
NAME_SPACE = "convive.conversation"
SEAT = "convive.seat"
TURN = "convive.turn"
FIRST_SEQ = "convive.seq.first"
LAST_SEQ = "convive.seq.last"
ATTEMPT = "convive.attempt"
ATTEMPTS = "convive.attempts"
DAMAGE = "convive.damage"
COST_KNOWN = "convive.cost.known"
COST_COMPLETE = "convive.cost.complete"
COST_CURRENCY = "convive.cost.currency"
REASON = "convive.reason"
LINK_KIND = "convive.link.kind"
LINK_NAME = "convive.link.conversation"
KIND = "convive.subject.kind"
LINK_SEQ = "convive.link.seq"

OPERATIONS = {"conversation": "invoke_workflow", "run": "invoke_agent", "trip": "chat", "tool": "execute_tool"}
"""What GenAI calls a kind of node; it has no name for a turn."""

OI_KINDS = {"conversation": "CHAIN", "turn": "CHAIN", "run": "AGENT", "trip": "LLM", "tool": "TOOL"}

TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - the name of a metric
OPERATION_DURATION = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TURN_OVERHEAD = "convive.turn.overhead"
FLOOR_CONFLICTS = "convive.floor.conflicts"
APPEND_DURATION = "convive.append.duration"

TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""As the conventions advise; the time to the first chunk has those of a duration."""
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
APPEND_BUCKETS = (0.0001, 0.0002, *OVERHEAD_BUCKETS)
"""In seconds: the conventions have none for what they do not know."""
