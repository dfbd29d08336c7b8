#include "server/openapi.h"

#include <string_view>

namespace fastgen::server {

namespace {

// In parts, for a literal has a longest length.

constexpr std::string_view kPaths = R"json(
"/v1/chat/completions": {"post": {"operationId": "createChatCompletion", "summary": "The next message of a chat",
  "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}},
  "responses": {"200": {"description": "The answer; with \"stream\": true as server-sent events, the last one being [DONE]", "content": {
      "application/json": {"schema": {"$ref": "#/components/schemas/ChatCompletion"}}, "text/event-stream": {"schema": {"$ref": "#/components/schemas/StreamEvent"}}}},
    "504": {"$ref": "#/components/responses/Late"}, "default": {"$ref": "#/components/responses/Error"}}}},
"/v1/completions": {"post": {"operationId": "createCompletion", "summary": "How a text goes on",
  "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CompletionRequest"}}}},
  "responses": {"200": {"description": "The answer; with \"stream\": true as server-sent events, the last one being [DONE]", "content": {
      "application/json": {"schema": {"$ref": "#/components/schemas/Completion"}}, "text/event-stream": {"schema": {"$ref": "#/components/schemas/StreamEvent"}}}},
    "504": {"$ref": "#/components/responses/Late"}, "default": {"$ref": "#/components/responses/Error"}}}},
"/tokenize": {"post": {"operationId": "tokenize", "summary": "The token ids of a prompt or of a chat",
  "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TokenizeRequest"}}}},
  "responses": {"200": {"description": "The ids", "content": {"application/json": {"schema": {"type": "object",
      "required": ["count", "max_model_len", "tokens"], "properties": {"count": {"type": "integer"}, "max_model_len": {"type": "integer"},
      "tokens": {"type": "array", "items": {"type": "integer"}}, "token_strs": {"type": ["array", "null"], "items": {"type": "string"}}}}}}},
    "default": {"$ref": "#/components/responses/Error"}}}},
"/detokenize": {"post": {"operationId": "detokenize", "summary": "The text of token ids",
  "requestBody": {"required": true, "content": {"application/json": {"schema": {"type": "object", "required": ["tokens"],
    "properties": {"model": {"type": ["string", "null"]}, "tokens": {"$ref": "#/components/schemas/TokenIds"}}}}}},
  "responses": {"200": {"description": "The text", "content": {"application/json": {"schema": {"type": "object",
      "required": ["prompt"], "properties": {"prompt": {"type": "string"}}}}}}, "default": {"$ref": "#/components/responses/Error"}}}},
"/tokenizer_info": {"get": {"operationId": "tokenizerInfo", "summary": "What clients need to know of the tokenizer",
  "responses": {"200": {"description": "Sizes and special tokens", "content": {"application/json": {"schema": {"type": "object",
      "required": ["vocab_size", "model_max_length"], "properties": {"vocab_size": {"type": "integer"}, "model_max_length": {"type": "integer"},
      "bos_token": {"type": ["string", "null"]}, "eos_token": {"type": ["string", "null"]}}}}}}, "default": {"$ref": "#/components/responses/Error"}}}},
"/v1/models": {"get": {"operationId": "listModels", "summary": "The names of the model served here",
  "responses": {"200": {"description": "A list", "content": {"application/json": {"schema": {"type": "object", "required": ["object", "data"],
      "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}}}}},
    "default": {"$ref": "#/components/responses/Error"}}}},
"/v1/models/{model}": {"get": {"operationId": "retrieveModel", "summary": "One of the names",
  "parameters": [{"name": "model", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}],
  "responses": {"200": {"description": "The model", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Model"}}}},
    "default": {"$ref": "#/components/responses/Error"}}}},
"/health": {"get": {"operationId": "health", "summary": "State and counts", "security": [], "responses": {
  "200": {"$ref": "#/components/responses/Health"}, "503": {"$ref": "#/components/responses/Health"}}}},
"/health/live": {"get": {"operationId": "healthLive", "summary": "Whether the process is worth keeping", "security": [], "responses": {
  "200": {"$ref": "#/components/responses/Health"}, "503": {"$ref": "#/components/responses/Health"}}}},
"/health/ready": {"get": {"operationId": "healthReady", "summary": "Whether requests may be sent here", "security": [], "responses": {
  "200": {"$ref": "#/components/responses/Health"}, "503": {"$ref": "#/components/responses/Health"}}}},
"/metrics": {"get": {"operationId": "metrics", "summary": "Prometheus' text format", "responses": {
  "200": {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}, "default": {"$ref": "#/components/responses/Error"}}}},
"/debug/trace": {"get": {"operationId": "trace", "summary": "What the threads did lately, in Chrome's trace format",
  "parameters": [{"name": "ms", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 600000, "default": 500}}],
  "responses": {"200": {"description": "A trace", "content": {"application/json": {"schema": {"type": "object", "required": ["traceEvents"]}}}},
    "default": {"$ref": "#/components/responses/Error"}}}},
"/version": {"get": {"operationId": "version", "summary": "The server's version", "responses": {
  "200": {"description": "The version", "content": {"application/json": {"schema": {"type": "object", "required": ["version"],
      "properties": {"version": {"type": "string"}}}}}}, "default": {"$ref": "#/components/responses/Error"}}}}
)json";

// What chat and completions have in common; null is the same as leaving a field out.
constexpr std::string_view kCommon = R"json(
"model": {"type": ["string", "null"], "description": "Any name, unless the server runs with --strict-model"},
"stream": {"type": ["boolean", "null"]},
"stream_options": {"type": ["object", "null"], "description": "Only with stream", "properties": {
  "include_usage": {"type": ["boolean", "null"]}, "continuous_usage_stats": {"type": ["boolean", "null"]}, "include_obfuscation": {"type": ["boolean", "null"]}}},
"n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
"stop": {"oneOf": [{"type": "null"}, {"type": "string", "minLength": 1}, {"type": "array", "maxItems": 64, "items": {"type": "string", "minLength": 1}}]},
"max_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 2147483647, "description": "0 only with echo"},
"seed": {"type": ["integer", "null"], "minimum": -9223372036854775808, "maximum": 9223372036854775807},
"temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
"top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
"min_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
"top_k": {"type": ["integer", "null"], "minimum": -1, "maximum": 2147483647},
"repetition_penalty": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 10},
"frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
"presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
"logit_bias": {"type": ["object", "null"], "propertyNames": {"pattern": "^[0-9]{1,9}$"}, "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
"min_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 2147483647},
"ignore_eos": {"type": ["boolean", "null"]},
"stop_token_ids": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/TokenIds"}]},
"prompt_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
"include_stop_str_in_output": {"type": ["boolean", "null"]},
"skip_special_tokens": {"type": ["boolean", "null"]},
"return_token_ids": {"type": ["boolean", "null"]},
"add_special_tokens": {"type": ["boolean", "null"]},
"priority": {"type": ["integer", "null"], "minimum": -1000, "maximum": 1000, "description": "Smaller goes first; a unit is worth a second of waiting"},
"timeout_ms": {"type": ["number", "null"], "minimum": 1, "maximum": 86400000, "description": "After it the answer ends with what is there (504 without a token)"},
"ttft_timeout_ms": {"type": ["number", "null"], "minimum": 1, "maximum": 86400000, "description": "Without a token by then the request is dropped (504)"},
"user": {"type": ["string", "null"]},
)json";

constexpr std::string_view kSchemas = R"json(
"TokenIds": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
"TextPart": {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": {"type": "string"}}},
"Message": {"type": "object", "required": ["role", "content"], "properties": {
  "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]}, "name": {"type": "string"},
  "content": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/components/schemas/TextPart"}}]}}},
"TokenizeRequest": {"type": "object", "properties": {"model": {"type": ["string", "null"]}, "prompt": {"type": "string"},
  "messages": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}}, "add_special_tokens": {"type": ["boolean", "null"]},
  "add_generation_prompt": {"type": ["boolean", "null"]}, "return_token_strs": {"type": ["boolean", "null"]}},
  "oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]},
"StreamEvent": {"type": "object", "description": "A chunk as JSON, or [DONE]", "required": ["data"], "properties": {"data": {"type": "string"}}},
"Model": {"type": "object", "required": ["id", "object", "created", "owned_by"], "properties": {"id": {"type": "string"},
  "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": {"type": "string"}, "max_model_len": {"type": "integer"}}},
"Usage": {"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"], "properties": {
  "prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"},
  "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}}}},
"ChatCompletion": {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"], "properties": {
  "id": {"type": "string"}, "object": {"const": "chat.completion"}, "created": {"type": "integer"}, "model": {"type": "string"},
  "usage": {"$ref": "#/components/schemas/Usage"}, "choices": {"type": "array", "minItems": 1, "items": {"type": "object",
    "required": ["index", "message", "logprobs", "finish_reason"], "properties": {"index": {"type": "integer"},
    "finish_reason": {"enum": ["stop", "length"]}, "stop_reason": {"const": "timeout"}, "logprobs": {"type": ["object", "null"]},
    "message": {"type": "object", "required": ["role", "content"], "properties": {"role": {"const": "assistant"}, "content": {"type": "string"},
      "reasoning_content": {"type": "string"}}}}}}}},
"Completion": {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"], "properties": {
  "id": {"type": "string"}, "object": {"const": "text_completion"}, "created": {"type": "integer"}, "model": {"type": "string"},
  "usage": {"$ref": "#/components/schemas/Usage"}, "choices": {"type": "array", "minItems": 1, "items": {"type": "object",
    "required": ["index", "text", "logprobs", "finish_reason"], "properties": {"index": {"type": "integer"}, "text": {"type": "string"},
    "finish_reason": {"enum": ["stop", "length"]}, "stop_reason": {"const": "timeout"}, "logprobs": {"type": ["object", "null"]}}}}}},
"Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"],
  "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}}}},
"LateError": {"allOf": [{"$ref": "#/components/schemas/Error"}, {"type": "object", "properties": {"error": {"type": "object", "properties": {
  "type": {"const": "server_error"}, "param": {"enum": ["timeout_ms", "ttft_timeout_ms"]}, "code": {"const": "deadline_exceeded"}}}}}]},
"Health": {"type": "object", "required": ["status"], "properties": {"status": {"enum": ["loading", "ready", "busy", "stalled", "draining", "failed"]},
  "loaded_percent": {"type": "integer"}, "silent_s": {"type": "number"}, "expected_wait_s": {"type": "number"}}}
)json";

constexpr std::string_view kChatFields = R"json(
"messages": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}},
"max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 2147483647},
"logprobs": {"type": ["boolean", "null"]},
"top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20, "description": "Needs logprobs"},
"response_format": {"oneOf": [{"type": "null"}, {"type": "object", "required": ["type"], "properties": {"type": {"const": "text"}}}]},
"modalities": {"type": ["array", "null"], "items": {"const": "text"}},
"add_generation_prompt": {"type": ["boolean", "null"]},
"documents": {"type": ["array", "null"], "items": {"type": "object"}},
"chat_template": {"type": ["string", "null"], "minLength": 1, "description": "The name of one of the model's templates; a template's text only with --trust-request-chat-template"},
"chat_template_kwargs": {"type": ["object", "null"]},
"service_tier": {"enum": ["auto", "default", null]}
)json";

constexpr std::string_view kCompletionFields = R"json(
"prompt": {"oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
  {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
  {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 2147483647}}}]},
"echo": {"type": ["boolean", "null"]},
"best_of": {"type": ["integer", "null"], "minimum": 1, "maximum": 128, "description": "At least n; more than n not with stream"},
"logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20}
)json";

std::string make_document() {
  const auto schema = [](std::string_view name, std::string_view required, std::string_view fields) {
    std::string text = "\"";
    text.append(name).append(R"(": {"type": "object", "required": [")").append(required).append(R"("], "properties": {)");
    return text.append(kCommon).append(fields).append("}},\n");
  };
  std::string text = R"({"openapi": "3.1.0", "info": {"title": "Fastgen", "version": ")" FG_VERSION
                     R"(", "description": "OpenAI's chat and text completions over one model. Fields not listed here have no effect; the answer's )"
                     R"(x-fastgen-ignored-params header names them."}, "security": [{}, {"bearer": []}], "paths": {)";
  text.append(kPaths).append("},\n\"components\": {\"schemas\": {");
  text += schema("ChatRequest", "messages", kChatFields) + schema("CompletionRequest", "prompt", kCompletionFields);
  text.append(kSchemas).append(R"json(}, "responses": {
"Error": {"description": "What was wrong, and with which field", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
"Late": {"description": "The request's own time (timeout_ms, ttft_timeout_ms) was over before its first token", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/LateError"}}}},
"Health": {"description": "200: requests may be sent here, or the process is alive; 503: not", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}}}},
"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "Only where the server has --api-key"}}}})json");
  return text + "\n";
}

}  // namespace

const std::string& openapi_document() {
  static const std::string document = make_document();
  return document;
}

}  // namespace fastgen::server
