// GET /openapi.json: what this server takes and gives, as OpenAPI 3.1.
#pragma once

#include <string>

namespace fastgen::server {

const std::string& openapi_document();

}  // namespace fastgen::server
