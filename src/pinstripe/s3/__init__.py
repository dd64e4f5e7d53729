"""Files and buckets: link, import, restore, export, release. The only layer that imports boto3."""
