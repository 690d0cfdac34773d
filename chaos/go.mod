module github.com/redtask/redtask/chaos

go 1.26.0

require github.com/redtask/redtask v0.0.0

replace github.com/redtask/redtask => ../
