// One client's connection: requests in, answers out, one coroutine (rows 1-4 and 11-12).
#pragma once

#include "server/io_thread.h"

namespace fastgen::server {

// Takes over the connected socket. On the io thread of `thread`, which the session never leaves.
void serve_connection(ServerState& state, IoThread& thread, int fd);

}  // namespace fastgen::server
