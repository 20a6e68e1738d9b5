#!/bin/sh
# Makes the passwords of the compose stack in a folder, once:
#
#   sh make-secrets.sh FOLDER
#
# Each file is what one kind of process reads. All may read them: the folder is a volume that only
# the containers of the stack see, under several users.
set -eu
cd "$1"
complete=redis-url # written last
if [ -e "$complete" ]; then exit 0; fi

random() { # BYTES, as hexadecimal digits
    head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

umask 022
password=$(random 32)
key=$(random 10)
secret=$(random 32)

echo "requirepass $password" >redis.conf
# keys that the environment has already take precedence, for clients as well
cat >s3.env <<END
AWS_ACCESS_KEY_ID=\${AWS_ACCESS_KEY_ID:-$key}
AWS_SECRET_ACCESS_KEY=\${AWS_SECRET_ACCESS_KEY:-$secret}
END
cat >aws-credentials <<END
[default]
aws_access_key_id = $key
aws_secret_access_key = $secret
END
echo "redis://:$password@redis:6379/0" >"$complete.draft"
mv "$complete.draft" "$complete"
