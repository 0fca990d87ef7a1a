// What a dashboard may be, by what Grafana Labs publish: `.ci/run` puts the dashboard behind
// the last line, and has TypeScript's compiler read it.
import type { Dashboard, GraphFieldConfig, RowPanel, TableFieldOptions } from "@grafana/schema";
import type * as raw from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as stateTimeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import type { VariableModel } from "@grafana/grafana-foundation-sdk/dashboard";
import type { Dataquery } from "@grafana/grafana-foundation-sdk/prometheus";
import type * as units from "@grafana/grafana-foundation-sdk/units";

// As JSON has it: an enumeration is one of its words, and Grafana fills in what is left out.
type Written<T> = T extends string
    ? `${T}`
    : T extends object
      ? { [K in keyof T]?: Written<T[K]> }
      : T;

type Fields<Custom> = Written<Omit<raw.FieldConfig, "custom" | "unit">> & {
    unit?: (typeof units)[keyof typeof units];
    custom?: Written<Custom>;
};

type Override<Custom> = {
    matcher: { id: "byName"; options: string };
    properties: { id: keyof raw.FieldConfig | `custom.${keyof Custom & string}`; value: unknown }[];
};

type Query = Written<Omit<Dataquery, "_implementsDataqueryVariant">> & { refId: string; expr: string };

type Chart<Type, Options, Custom> = Written<
    Omit<raw.Panel, "type" | "options" | "fieldConfig" | "targets">
> & {
    type: Type;
    title: string;
    options: Written<Options>;
    fieldConfig: { defaults: Fields<Custom>; overrides: Override<Custom>[] };
    targets: Query[];
};

type Row = Written<Omit<RowPanel, "type">> & { type: "row" };

type Known = Written<Omit<Dashboard, "panels" | "templating">> & {
    templating: { list: Written<VariableModel>[] };
    panels: (
        | Row
        | Chart<"stat", stat.Options, {}>
        | Chart<"state-timeline", stateTimeline.Options, stateTimeline.FieldConfig>
        | Chart<"table", table.Options, TableFieldOptions>
        | Chart<"timeseries", timeSeries.Options, GraphFieldConfig>
    )[];
};

export const dashboard: Known =
