"""Why a connection to a broker came to nothing, in words that say which setting to look at. Neither the client's nor the broker's holds a
password."""

import ssl

from kafka.errors import IllegalSaslStateError, KafkaConnectionError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError

UNANSWERED = "no TLS: the handshake was not answered in time"
_MISMATCHES = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def explained(error: BaseException) -> str:
    """What the error says, and what to look at."""
    advice = _advice(error) or _advice(error.__cause__)
    said = str(error.args[-1]) if error.args else str(error) or type(error).__name__
    return said if advice is None else f"{said}; {advice}"


def _advice(error: BaseException | None) -> str | None:
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _MISMATCHES:
            return "HEADRACE_QUEUE_URL, and the listeners that brokers advertise, must name the hosts as their certificates do"
        case ssl.SSLCertVerificationError():
            return "HEADRACE_KAFKA_CA_FILE must hold the certificate of who signed the brokers'"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "UNEXPECTED_EOF_WHILE_READING"):
            return "is there TLS at this port? Without, HEADRACE_QUEUE_URL is kafka:// and not kafka+ssl://"
        case KafkaConnectionError(args=(said,)) if said == UNANSWERED:
            return "is there TLS at this port? Without, HEADRACE_QUEUE_URL is kafka:// and not kafka+ssl://"
        case ssl.SSLError() | FileNotFoundError() | PermissionError():
            return "HEADRACE_KAFKA_CA_FILE must be a file of certificates in PEM format"
        case SaslAuthenticationFailedError():
            return "look at user and password, HEADRACE_KAFKA_USER and HEADRACE_KAFKA_PASSWORD, or those in HEADRACE_QUEUE_URL"
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return "HEADRACE_KAFKA_SASL must be a mechanism that the brokers have enabled"
        case KafkaConnectionError(args=("socket disconnected",)):
            return "does it want TLS, kafka+ssl:// in HEADRACE_QUEUE_URL, or a login, HEADRACE_KAFKA_USER?"
        case _:
            return None
