BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'digits cnn');
INSERT INTO "studies" VALUES(2,'two objectives');
INSERT INTO "studies" VALUES(3,'empty');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',2,0);
INSERT INTO "study_directions" VALUES(3,'MAXIMIZE',2,1);
INSERT INTO "study_directions" VALUES(4,'MINIMIZE',3,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["accuracy"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'dataset','"digits"');
INSERT INTO "study_user_attributes" VALUES(2,1,'notes','["a", 1]');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,0,5.21782649715138768797e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,1,6.21782649715138746593e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,1,2,7.21782649715138724388e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,2,0,5.21549895519137773902e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,2,1,6.21549895519137751698e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,2,2,7.21549895519137729493e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,3,0,5.21786135519762606094e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,3,1,6.21786135519762583889e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(9,3,2,7.21786135519762561685e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(10,4,0,5.38061002891731421371e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(11,4,1,6.38061002891731399166e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(12,4,2,7.38061002891731376962e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(13,7,0,5.32206381353378943366e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(14,7,1,NULL,'NAN');
INSERT INTO "trial_intermediate_values" VALUES(15,8,0,5.10431404179213621397e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(16,9,0,5.07431742208835467877e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(17,10,0,5.33504833055325256019e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(18,10,1,6.33504833055325233814e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(19,10,2,7.3350483305532521161e-01,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'lr',1.78264971513869487258e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(2,1,'layers',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(3,1,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(4,1,'batch_size',16.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(5,1,'dropout',0.1,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(6,1,'momentum',6.69324756251093333503e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.99, "log": false}}');
INSERT INTO "trial_params" VALUES(7,2,'lr',1.54989551913771428891e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(8,2,'layers',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(9,2,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(10,2,'batch_size',128.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(11,2,'dropout',0.0,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(12,2,'momentum',8.28529079987417094166e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.99, "log": false}}');
INSERT INTO "trial_params" VALUES(13,3,'lr',1.78613551976259700426e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(14,3,'layers',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(15,3,'optimizer',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(16,3,'batch_size',128.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(17,3,'dropout',0.1,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(18,4,'lr',1.19389971082686438541e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(19,4,'layers',4.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(20,4,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(21,4,'batch_size',32.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(22,4,'dropout',0.5,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(23,5,'lr',1.97260668918409695637e-04,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(24,5,'layers',2.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(25,5,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(26,5,'batch_size',48.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(27,5,'dropout',0.4,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(28,6,'lr',3.1906341975134228095e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(29,6,'layers',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(30,6,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(31,6,'batch_size',48.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(32,6,'dropout',0.4,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(33,6,'momentum',5.50580743223044621892e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.99, "log": false}}');
INSERT INTO "trial_params" VALUES(34,7,'lr',2.20638135337888679696e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(35,7,'layers',4.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(36,7,'optimizer',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(37,7,'batch_size',16.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(38,7,'dropout',0.4,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(39,8,'lr',4.31404179213561937266e-04,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(40,8,'layers',2.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(41,8,'optimizer',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(42,8,'batch_size',32.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(43,8,'dropout',3.00000000000000044408e-01,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(44,9,'lr',1.25682577911645880497e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(45,9,'layers',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(46,9,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(47,9,'batch_size',16.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(48,9,'dropout',3.00000000000000044408e-01,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(49,9,'momentum',8.25259376157696511455e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.99, "log": false}}');
INSERT INTO "trial_params" VALUES(50,10,'lr',3.50483305532523067502e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(51,10,'layers',4.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO "trial_params" VALUES(52,10,'optimizer',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd", null]}}');
INSERT INTO "trial_params" VALUES(53,10,'batch_size',32.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 16, "low": 16, "high": 128}}');
INSERT INTO "trial_params" VALUES(54,10,'dropout',0.4,'{"name": "FloatDistribution", "attributes": {"step": 0.1, "low": 0.0, "high": 0.5, "log": false}}');
INSERT INTO "trial_params" VALUES(55,10,'momentum',6.94861650122911456151e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.5, "high": 0.99, "log": false}}');
INSERT INTO "trial_params" VALUES(56,11,'lr',3.13373733198532089874e-04,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO "trial_params" VALUES(57,13,'x',-1.28010195715992480813e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": -1.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(58,13,'y',2.59262318278913328484e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(59,14,'x',9.93249557574182873054e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": -1.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(60,14,'y',4.35322392618276876596e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(61,15,'x',-1.59264395825021942698e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": -1.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(62,15,'y',3.30334821003874123945e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(63,16,'x',-0.590702731924315,'{"name": "FloatDistribution", "attributes": {"step": null, "low": -1.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(64,16,'y',6.19270966350663698563e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,12,'fixed_params','{"lr": 0.01}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,7.21782649715138724388e-01,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,7.21549895519137729493e-01,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,7.21786135519762561685e-01,'FINITE');
INSERT INTO "trial_values" VALUES(4,4,0,7.38061002891731376962e-01,'FINITE');
INSERT INTO "trial_values" VALUES(5,8,0,5.10431404179213621397e-01,'FINITE');
INSERT INTO "trial_values" VALUES(6,9,0,5.07431742208835467877e-01,'FINITE');
INSERT INTO "trial_values" VALUES(7,10,0,NULL,'INF_POS');
INSERT INTO "trial_values" VALUES(8,13,0,0.0163866102072467,'FINITE');
INSERT INTO "trial_values" VALUES(9,13,1,2.59262318278913328484e-02,'FINITE');
INSERT INTO "trial_values" VALUES(10,14,0,0.0098654468362131,'FINITE');
INSERT INTO "trial_values" VALUES(11,14,1,4.35322392618276876596e-01,'FINITE');
INSERT INTO "trial_values" VALUES(12,15,0,2.53651477775092663857e-02,'FINITE');
INSERT INTO "trial_values" VALUES(13,15,1,3.30334821003874123945e-01,'FINITE');
INSERT INTO "trial_values" VALUES(14,16,0,3.489297175028491238e-01,'FINITE');
INSERT INTO "trial_values" VALUES(15,16,1,6.19270966350663698563e-01,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-25 03:29:49.842345','2026-11-25 03:29:50.521140');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-25 03:29:50.593229','2026-11-25 03:29:51.192949');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-25 03:29:51.276679','2026-11-25 03:29:51.970180');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-25 03:29:52.052147','2026-11-25 03:29:52.665072');
INSERT INTO "trials" VALUES(5,4,1,'FAIL','2026-11-25 03:29:52.757070','2026-11-25 03:29:53.108987');
INSERT INTO "trials" VALUES(6,5,1,'FAIL','2026-11-25 03:29:53.204324','2026-11-25 03:29:53.624286');
INSERT INTO "trials" VALUES(7,6,1,'PRUNED','2026-11-25 03:29:53.730935','2026-11-25 03:29:54.260725');
INSERT INTO "trials" VALUES(8,7,1,'PRUNED','2026-11-25 03:29:54.349371','2026-11-25 03:29:54.782498');
INSERT INTO "trials" VALUES(9,8,1,'PRUNED','2026-11-25 03:29:54.863281','2026-11-25 03:29:55.302804');
INSERT INTO "trials" VALUES(10,9,1,'COMPLETE','2026-11-25 03:29:55.383411','2026-11-25 03:29:55.973203');
INSERT INTO "trials" VALUES(11,10,1,'RUNNING','2026-11-25 03:29:56.054981',NULL);
INSERT INTO "trials" VALUES(12,11,1,'WAITING',NULL,NULL);
INSERT INTO "trials" VALUES(13,0,2,'COMPLETE','2026-11-25 03:29:56.521066','2026-11-25 03:29:56.765165');
INSERT INTO "trials" VALUES(14,1,2,'COMPLETE','2026-11-25 03:29:56.863623','2026-11-25 03:29:57.032370');
INSERT INTO "trials" VALUES(15,2,2,'COMPLETE','2026-11-25 03:29:57.094409','2026-11-25 03:29:57.247991');
INSERT INTO "trials" VALUES(16,3,2,'COMPLETE','2026-11-25 03:29:57.308366','2026-11-25 03:29:57.487465');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
