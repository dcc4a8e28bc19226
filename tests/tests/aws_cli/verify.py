"""A stand-in for AWS that moto is not: it checks signatures of version 4, and says no where it is asked to.

Its own code, by AWS' documentation of the signing process, so that it shares no mistake with what signs.
"""
import hashlib
import hmac
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote_to_bytes

KEY_ID, SECRET = sys.argv[1:3]
UNSIGNED = ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")


def encoded(raw):
    return quote(unquote_to_bytes(raw.replace("+", "%20")), safe="-_.~")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def wrong(self, body):
        """What is wrong with the signature; nothing where it is right."""
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})",
            self.headers.get("authorization", ""))
        if not found:
            return "no signature: " + self.headers.get("authorization", "")
        key_id, day, region, service, signed, signature = found.groups()
        if key_id != KEY_ID:
            return "another key: " + key_id
        for name in self.headers.keys():
            if name.lower().startswith("x-amz-") and name.lower() not in signed.split(";"):
                return "not signed: " + name
        # as it was sent: self.path has slashes taken away
        path, _, query = self.requestline.split(" ")[1].partition("?")
        if service != "s3":
            # the path is encoded once more, segment by segment
            path = "/".join(quote(segment, safe="-_.~") for segment in path.split("/"))
        pairs = sorted(tuple(encoded(part) for part in (pair.split("=", 1) + [""])[:2]) for pair in query.split("&") if pair)
        digest = hashlib.sha256(body).hexdigest()
        said = self.headers.get("x-amz-content-sha256")
        if said not in UNSIGNED and said not in (None, digest):
            return "the body has another digest"
        headers = "".join(f"{name}:{' '.join(self.headers[name].split())}\n" for name in signed.split(";"))
        canonical = "\n".join([self.command, path, "&".join(f"{n}={v}" for n, v in pairs), headers, signed, said or digest])
        scope = f"{day}/{region}/{service}/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + SECRET).encode()
        for part in (day, region, service, "aws4_request", text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return None if key.hex() == signature else "SignatureDoesNotMatch of\n" + canonical

    def answer(self, status, body, kind, **headers):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def any(self):
        body = self.body()
        if "Credential=AKIAOLD/" in self.headers.get("authorization", ""):
            print("expired", flush=True)
            said = b"<ErrorResponse><Error><Code>ExpiredToken</Code><Message>The security token is expired</Message></Error></ErrorResponse>"
            return self.answer(403, said, "text/xml")
        wrong = self.wrong(body)
        host, target = self.headers["host"], self.headers.get("x-amz-target", "")
        xml = lambda code, words: f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{words}</Message></Error>".encode()
        if wrong:
            print("wrong:", wrong, flush=True)
            if ".s3." in host or host.startswith("s3."):
                return self.answer(403, xml("SignatureDoesNotMatch", "see the log"), "application/xml")
            return self.answer(403, json.dumps({"__type": "InvalidSignatureException", "message": wrong}).encode(), "application/x-amz-json-1.0")
        if host.startswith("denied."):
            return self.answer(403, xml("AccessDenied", "User: arn:aws:iam::1:user/x is not authorized"), "application/xml")
        if host.startswith("throttled."):
            return self.answer(503, xml("SlowDown", "Please reduce your request rate."), "application/xml")
        if target.startswith("DynamoDB_"):
            said = {"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "The security token included in the request is expired"}
            return self.answer(400, json.dumps(said).encode(), "application/x-amz-json-1.0", x_amzn_RequestId="1")
        if self.headers.get("content-type", "").startswith("application/x-www-form"):
            kind, inner = ("GetCallerIdentity", "<Account>1</Account><Arn>arn:aws:iam::1:user/x</Arn><UserId>x</UserId>") if b"GetCallerIdentity" in body else ("ListUsers", "<Users/>")
            return self.answer(200, f"<{kind}Response><{kind}Result>{inner}</{kind}Result></{kind}Response>".encode(), "text/xml")
        if "list-type=2" in self.path:
            return self.answer(200, b"<ListBucketResult/>", "application/xml")
        if ".s3." in host or host.startswith("s3."):
            return self.answer(200, b"" if self.command in ("PUT", "HEAD") else b"content", "text/plain", ETag='"%s"' % hashlib.md5(body).hexdigest())
        self.answer(200, b"{}", "application/json")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = any


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("listening on", server.server_address[1], flush=True)
server.serve_forever()
