# What every role of Koji stands on: the library, the command line client, the schema.
{%- from "koji/map.jinja" import koji with context %}
{%- from "koji/software.jinja" import software %}

include:
  - common

{{ software(koji, 'library') }}
