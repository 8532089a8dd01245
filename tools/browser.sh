#!/bin/sh
# A Chromium for the tests of pages: the one that is there, or else, for root on Debian, its headless one (96 MB, 20 s).
# Never fails: where none can be had, those tests are skipped, and say so.
for name in chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
	command -v "$name" > /dev/null && exit 0
done
if [ "$(id -u 2> /dev/null)" = 0 ] && command -v apt-get > /dev/null; then
	echo "browser: installing chromium-headless-shell, for the tests of pages"
	quick="-qq -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120"
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get $quick update && apt-get $quick install -y --no-install-recommends chromium-headless-shell; } > /dev/null 2>&1 && exit 0
fi
echo "browser: none is here, and none can be installed; the tests that show pages are skipped (install Chromium or Chrome)"
