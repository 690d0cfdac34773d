package main

import (
	"encoding/csv"
	"os"
	"strconv"
)

var csvHeader = []string{"workload", "parameter", "system", "repeat", "metric", "value", "unit"}

// writeCSV writes what was measured, one line for each metric of each repeat.
func writeCSV(path string, rows []row) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	lines := [][]string{csvHeader}
	for _, r := range rows {
		value := strconv.FormatFloat(r.value, 'g', 8, 64)
		lines = append(lines, []string{r.workload, r.parameter, r.system, strconv.Itoa(r.repeat), r.metric, value, r.unit})
	}
	err = csv.NewWriter(file).WriteAll(lines)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
