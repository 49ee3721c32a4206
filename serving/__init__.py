"""The server: everything on the path of a request, without torch and without the builder.

    __main__  the command line        composition  the only package that knows every other
    settings  the environment         server  listening, and the drain at the end
    admin     ``punctual admin``      http_protocol, http_transport, websocket_protocol  connections

    access -> api -> backends -> execution -> runners     a request's way, each a package
                        '- core, and core.scheduling -'   what is decided, without any I/O

Depends on no other part of this repository. Begin with ``composition``, or with the page
``docs/concepts/request-path.md``, which follows one request through the modules.
"""
