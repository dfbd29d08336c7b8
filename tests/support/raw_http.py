"""HTTP as bytes, for what a proper client would not send."""

import socket

TIMEOUT_S = 20


def read_all(connection):
    """Until the other side closes; what came before a reset is kept."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def exchange(port, data, half_close=True, piece_bytes=None):
    """Sends the bytes, says that no more come (unless told not to), and reads everything that is answered.

    With piece_bytes so many at a time, each piece in a packet of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for i in range(0, len(data), piece_bytes or len(data)):
                connection.sendall(data[i : i + (piece_bytes or len(data))])
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server may have answered and closed already
        return read_all(connection)
