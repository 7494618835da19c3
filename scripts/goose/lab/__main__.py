from goose.lab.cli import main

raise SystemExit(main())
